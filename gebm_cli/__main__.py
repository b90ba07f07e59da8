"""`python -m gebm_cli` and the `gebm` command."""

from gebm_cli.cli.app import main

if __name__ == "__main__":
    main()
