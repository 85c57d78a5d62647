"""`viper predict` under its published name; `--help` lists the options."""

from viper.cli import main

if __name__ == "__main__":
    main("predict")
