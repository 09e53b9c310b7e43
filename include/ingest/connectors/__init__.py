"""Connectors: how raw data is fetched from object stores, HTTP APIs and SQL databases.

To add a connector, write a module here with a subclass of `include.spec.source.BaseSource` and a function
``open_source(source, endpoint)``, and add one line to `include.spec.source.CONNECTORS`. Import libraries
inside the functions that need them: the module is imported when a DAG file is parsed.
"""
