"""All metadata is in pyproject.toml; this file lets tools that still look for it find the build."""

from setuptools import setup

setup()
