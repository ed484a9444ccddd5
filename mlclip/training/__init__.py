"""How the student learns: the loop, and every step that it takes."""
