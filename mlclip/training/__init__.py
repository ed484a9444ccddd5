"""How the student is trained: the loop, its schedule and its steps."""
