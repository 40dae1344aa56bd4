"""python -m dogbreeds, and the command `dogbreeds` of an installed package."""

from dogbreeds.errors import one_line_errors


def main() -> None:
    """Run the command that the arguments name; the process ends with its exit status."""
    with one_line_errors():
        from dogbreeds.cli import main as run_command

        run_command()


if __name__ == "__main__":
    main()
