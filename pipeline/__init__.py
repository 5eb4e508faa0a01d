"""Consumes, decides, stores and answers; knows collectors' contract and kit only."""
