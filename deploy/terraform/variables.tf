variable "name" { # prefix of every name; buckets' names are global
  type    = string
  default = "evergreen"
}

variable "region" { type = string }
variable "vpc_id" { type = string } # an existing network with a way out to the sources

variable "private_subnet_ids" { # in two zones
  type = list(string)
  validation {
    condition     = length(var.private_subnet_ids) >= 2
    error_message = "EKS and RDS need subnets in two zones."
  }
}

variable "source_buckets" { # ARNs of the buckets that the use cases' sources read
  type    = list(string)
  default = []
}

variable "backup_lock_days" { # so long nobody can delete a version of a backup, nor a person's rows in it
  type    = number
  default = 30
}

variable "noncurrent_days" { # so long a bucket keeps what was overwritten or deleted, an erased person's rows too
  type    = number
  default = 14
}

variable "alarm_email" { type = string }
variable "monthly_budget_usd" { type = number }
