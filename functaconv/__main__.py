"""`python -m functaconv`, and `torchrun -m functaconv`."""

from functaconv.cli import main
from functaconv.interruption import stop_with_parent

if __name__ == "__main__":
    stop_with_parent()
    main()
