"""Create the missing buckets of `BUCKETS`, with the address and account of `AWS_*`."""

from __future__ import annotations

import os

import boto3
from botocore.exceptions import ClientError


def main() -> None:
    """Create each bucket unless it exists."""
    s3 = boto3.client("s3")
    for bucket in os.environ["BUCKETS"].split():
        try:
            s3.head_bucket(Bucket=bucket)
        except ClientError as error:
            if (
                error.response["ResponseMetadata"]["HTTPStatusCode"] != 404
            ):  # 403: the bucket belongs to another account
                raise
            s3.create_bucket(Bucket=bucket)


if __name__ == "__main__":
    main()
