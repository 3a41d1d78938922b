"""Experiments: measurements that take more than one run, with their own result folders."""
