"""The machine: ``accelerator verify``, ``doctor``, ``gpu-info``, ``memory``."""
