"""What is learnt and how it is judged: loss, outputs and report for one kind of problem each."""
