"""`python -m zephyr`, which is `zephyr` where no script is on the path."""

from zephyr.cli.main import main

if __name__ == "__main__":
    main()
