# for each service account of the charts its annotation eks.amazonaws.com/role-arn
output "roles" {
  value = { for name, role in aws_iam_role.pod : local.accounts[name] => role.arn }
}

output "database" { value = aws_db_instance.main.address }

# the secret that has the administrator's
output "database_password" { value = aws_db_instance.main.master_user_secret[0].secret_arn }
