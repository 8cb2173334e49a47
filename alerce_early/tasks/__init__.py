"""Tasks: LightningModules with the loss, outputs and metrics of one kind of problem each."""
