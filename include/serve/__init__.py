"""Serves a use case's models over HTTP, by the ledger's switches and the fallback chain of batch scoring.

Nothing else imports this package, and it adds no dependency: FastAPI, uvicorn and prometheus_client come with
Airflow and MLflow. With the extra `onnx` the champion is served by ONNX Runtime.
"""
