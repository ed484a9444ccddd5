"""`python -m mlclip`, which is also what torchrun starts."""

from .cli import main

if __name__ == "__main__":  # processes that decode photos import this file again
    main()
