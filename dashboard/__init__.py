"""The pages; everything they show comes through the API's HTTP interface."""
