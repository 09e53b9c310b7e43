"""Import the heavy libraries once in the scheduler, so that each task forked from it has them already.

Importing Great Expectations, Evidently, MLflow and scikit-learn in each task takes 8 s, more than most work.
Only the scheduler gets EVERGREEN_WARM=1. This file only imports: it starts no threads, because only the
forking thread survives in the child, and imports no code of this project, because tasks must see edits at
once.
"""

# ruff: noqa: F401  # imported for the tasks that will be forked
import gc
import os

__all__: list[str] = []  # Airflow treats every public name here as a setting

if os.environ.get("EVERGREEN_WARM") == "1":
    import datasketches
    import deltalake
    import duckdb
    import evidently
    import evidently.presets
    import fairlearn.metrics
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
    gc.freeze()  # or a task's garbage collector would touch, and so copy, all these pages
