"""The books: who held which GPU when, and what each hour of it held."""
