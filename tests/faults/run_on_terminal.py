"""Runs the command with a fault that says "here" and waits: its place, number and seconds , then the folder."""

import sys
import time

import fault_parts
from command_runs import command

from accelerator.cli.app import leave


def wait(seconds):
    print("here", flush=True)
    time.sleep(seconds)


if __name__ == "__main__":
    place, number, seconds, folder, *more = sys.argv[1:]
    fault_parts.FAULTS[place] = (int(number), lambda: wait(float(seconds)))
    leave(command(folder, *more))
