# A role for each service account of the charts; what it may do is in policies/, which can be tried without AWS.
module "policies" {
  source         = "./policies"
  buckets        = { for name, bucket in aws_s3_bucket.main : name => bucket.arn }
  source_buckets = var.source_buckets
  key            = aws_kms_key.main.arn
  secrets        = "arn:aws:secretsmanager:${var.region}:${data.aws_caller_identity.current.account_id}:secret:${var.name}/airflow"
}

locals {
  issuer = replace(aws_eks_cluster.main.identity[0].oidc[0].issuer, "https://", "")
  accounts = {
    worker     = "evergreen-airflow-worker"
    api-server = "evergreen-airflow-api-server"
    triggerer  = "evergreen-airflow-triggerer"
    mlflow     = "mlflow"
    serve      = "serve-*" # a release for each use case
  }
}

resource "aws_iam_openid_connect_provider" "cluster" {
  url            = aws_eks_cluster.main.identity[0].oidc[0].issuer
  client_id_list = ["sts.amazonaws.com"]
}

resource "aws_iam_role" "pod" {
  for_each = local.accounts
  name     = "${var.name}-${each.key}"
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Federated = aws_iam_openid_connect_provider.cluster.arn }
      Action    = "sts:AssumeRoleWithWebIdentity"
      Condition = {
        StringEquals = { "${local.issuer}:aud" = "sts.amazonaws.com" }
        StringLike   = { "${local.issuer}:sub" = "system:serviceaccount:evergreen:${each.value}" }
      }
    }]
  })
}

resource "aws_iam_role_policy" "pod" {
  for_each = local.accounts
  name     = "evergreen"
  role     = aws_iam_role.pod[each.key].id
  policy   = module.policies.documents[each.key]
}

# Empty here: values are put by a person, so that no state holds one. Connections of the use cases are secrets
# <name>/airflow/connections/<connection>, which Airflow's backend reads.
resource "aws_secretsmanager_secret" "kubernetes" {
  #checkov:skip=CKV2_AWS_57: a Fernet key and tokens are changed by docs/how-to/deploy.md, and not by a function
  for_each   = toset(["fernet", "jwt", "api", "metadata", "environment", "mlflow-environment", "serve-environment"])
  name       = "${var.name}/kubernetes/${each.key}"
  kms_key_id = aws_kms_key.main.arn
}
