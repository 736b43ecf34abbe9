"""``python -m mobilenet_cli`` is the program ``mobilenet-cli``."""

from mobilenet_cli.cli import main

if __name__ == "__main__":
    main()
