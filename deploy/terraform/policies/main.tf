# What each process may do on AWS, and nothing else. No provider: `terraform apply` here needs no account, and
# tests/deploy/test_terraform.py reads what it prints. docs/how-to/aws.md has the reasons.
variable "buckets" { type = map(string) } # ARNs of lake, logs, mlflow and backups
variable "source_buckets" { type = list(string) }
variable "key" { type = string }
variable "secrets" { type = string } # prefix of the ARNs of the secrets that Airflow's backend reads

locals {
  # without ListBucket a missing object is a 403, and can't be told from a wrong policy
  actions = {
    list   = ["s3:ListBucket"]
    read   = ["s3:GetObject"]
    write  = ["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"]
    delete = ["s3:DeleteObject"]
  }
  # bucket → what a role may do there with objects
  roles = {
    worker     = { lake = ["write", "delete"], logs = ["write"], backups = ["write", "delete"] } # every stage, upkeep, erasure
    api-server = { lake = ["read"], logs = ["read"] }                                            # pages, and the logs of tasks
    triggerer  = { lake = ["read"], logs = ["write"] }                                           # the deadline asks the lake
    mlflow     = { mlflow = ["write", "delete"] }
    serve      = { lake = ["read"] }
  }
  objects = {
    for role, buckets in local.roles : role => flatten([
      for bucket, kinds in buckets : [
        { Effect = "Allow", Action = local.actions.list, Resource = [var.buckets[bucket]] },
        {
          Effect   = "Allow"
          Action   = flatten([for kind in kinds : local.actions[kind]])
          Resource = ["${var.buckets[bucket]}/*"]
        },
      ]
    ])
  }
  keys = {
    for role, buckets in local.roles : role => [{
      Effect   = "Allow"
      Action   = contains(flatten(values(buckets)), "write") ? ["kms:Decrypt", "kms:GenerateDataKey"] : ["kms:Decrypt"]
      Resource = [var.key]
    }]
  }
  sources = length(var.source_buckets) == 0 ? [] : [
    { Effect = "Allow", Action = local.actions.list, Resource = var.source_buckets },
    { Effect = "Allow", Action = local.actions.read, Resource = [for arn in var.source_buckets : "${arn}/*"] },
  ]
  # a task asks Airflow's API server for a connection, so no task can read a secret here
  secrets = [{ Effect = "Allow", Action = ["secretsmanager:GetSecretValue"], Resource = ["${var.secrets}/*"] }]
  more    = { worker = local.sources, api-server = local.secrets, triggerer = local.secrets }
}

output "documents" {
  value = {
    for role in keys(local.roles) : role => jsonencode({
      Version   = "2012-10-17"
      Statement = concat(local.objects[role], local.keys[role], lookup(local.more, role, []))
    })
  }
}
