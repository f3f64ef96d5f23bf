"""The record of a run in MLflow, kept by a child process so that training neither imports MLflow nor waits for it.

``bridge`` turns a config into params, tags and files; ``tracker`` starts and ends the child; ``uploader`` is the
child, which replays the run's journal into MLflow. Importing this package imports none of MLflow.
"""
