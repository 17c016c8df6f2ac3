"""``python -m plausible`` is the command ``plausible``."""

from plausible.cli import main

if __name__ == "__main__":
    main()
