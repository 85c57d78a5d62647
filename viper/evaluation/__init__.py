"""Scores, submissions and pictures of them."""
