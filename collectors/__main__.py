"""`python -m collectors`: the command, where its script is not on the path."""

from collectors.cli import main

if __name__ == "__main__":
    main()
