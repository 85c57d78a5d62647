"""`viper extract_visual_features` under its published name; `--help` lists the options."""

from viper.cli import main

if __name__ == "__main__":
    main("extract_visual_features")
