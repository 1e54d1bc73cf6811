"""Rows of files, folders and the hub as records: splits, columns, mixtures."""
