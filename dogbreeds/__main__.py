"""python -m dogbreeds."""

from dogbreeds.cli import main

if __name__ == "__main__":
    main()
