"""A first `site.toml` out of what agents say of themselves."""
