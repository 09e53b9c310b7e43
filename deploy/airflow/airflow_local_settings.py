"""The warm parent: the scheduler imports the heavy libraries once, and each task forked from it has them.

In each task they would cost more than the work: 8 s for Great Expectations, Evidently, MLflow, scikit-learn.
Only the scheduler gets EVERGREEN_WARM=1. Import and nothing else: no threads, since only the forking thread
lives on in the child, and no code of this project, since tasks must see an edit at once.
"""

# ruff: noqa: F401  # imported for the tasks that will be forked
import gc
import os

__all__: list[str] = []  # Airflow takes every public name here for a setting

if os.environ.get("EVERGREEN_WARM") == "1":
    import datasketches
    import deltalake
    import duckdb
    import evidently
    import evidently.presets
    import great_expectations
    import matplotlib.backends.backend_svg
    import matplotlib.figure
    import mlflow
    import mlflow.sklearn
    import obstore
    import obstore.store
    import pandas
    import pyarrow.dataset
    import pyarrow.parquet
    import sklearn.compose
    import sklearn.ensemble
    import sklearn.impute
    import sklearn.linear_model
    import sklearn.metrics
    import sklearn.pipeline
    import sklearn.preprocessing
    import skops.io

    gc.collect()
    gc.freeze()  # a task's garbage collector would go through all of this, and copy the pages it touches
