"""Model families: what a config.json and a checkpoint's tensor names mean, as data."""
