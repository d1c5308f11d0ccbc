"""What the DAGs are made of: the operator that runs a step, and the process that it starts."""
