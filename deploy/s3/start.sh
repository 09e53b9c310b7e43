#!/bin/sh
# SeaweedFS with the keys in the environment: each identity has its own buckets. Only the S3 port is reachable from
# outside the container, because the master, volume and filer servers require no password.
set -eu
umask 077
identity() { # name, key, secret, actions
  printf '{"name":"%s","credentials":[{"accessKey":"%s","secretKey":"%s"}],"actions":[%s]}' "$@"
}
cat >/tmp/s3.json <<CONF
{"identities":[
$(identity admin "$S3_ADMIN_KEY" "$S3_ADMIN_SECRET" '"Admin"'),
$(identity lake "$S3_LAKE_KEY" "$S3_LAKE_SECRET" "\"Admin:$LAKE_BUCKET\",\"Admin:$LOGS_BUCKET\",\"Admin:landing\""),
$(identity mlflow "$S3_MLFLOW_KEY" "$S3_MLFLOW_SECRET" "\"Admin:$MLFLOW_BUCKET\"")
]}
CONF
exec weed server -dir=/s3 -ip=127.0.0.1 -ip.bind=127.0.0.1 \
  -master.telemetry=false -master.volumeSizeLimitMB=1024 -volume.max=0 \
  -filer -s3 -s3.ip.bind=0.0.0.0 -s3.port.iceberg=0 -s3.config=/tmp/s3.json
