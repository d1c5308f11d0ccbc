"""`python -m tasks`: the same command line as `maskline`."""

from tasks.cli import main

if __name__ == "__main__":
    main()
