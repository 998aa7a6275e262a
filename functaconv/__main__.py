"""`python -m functaconv`."""

from functaconv.cli import main

if __name__ == "__main__":
    main()
