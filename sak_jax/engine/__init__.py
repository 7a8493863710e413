"""The loop of training and evaluation: knows no method, task, teacher or data set."""
