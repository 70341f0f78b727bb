"""`python -m edgetx` is the `edgetx` command."""

from edgetx.cli import main

if __name__ == "__main__":
    main()
