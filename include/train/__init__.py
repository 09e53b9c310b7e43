"""The train stage: fits the declared candidates on the data known by a partition, and registers one."""
