#!/bin/sh
# What the shop needs in Vault or OpenBao, once, with a token that may do it; docs/shop.md says what has to be there before.
#   POSTGRES=postgres.shop.svc:5432 POSTGRES_PASSWORD=... PROVIDER_KEY=... sh examples/shop/vault.sh
# VAULT is the program: vault, or bao. POSTGRES_USER may make users and give them the shop's roles.
set -eu
VAULT=${VAULT:-vault}
: "${POSTGRES:?host and port of PostgreSQL}" "${POSTGRES_PASSWORD:?password of POSTGRES_USER}" "${PROVIDER_KEY:?key of the payment provider}"

# Secrets are given on standard input: command lines can be read by others.
printf %s "$PROVIDER_KEY" | "$VAULT" kv put -mount=secret shop/payment-provider api-key=-

"$VAULT" secrets list | grep -q '^database/' || "$VAULT" secrets enable database

# A service, its database, and the role (NOLOGIN) whose rights its users have.
service() {
  name=$1 database=$2 role=$3
  printf %s "$POSTGRES_PASSWORD" | "$VAULT" write "database/config/$database" plugin_name=postgresql-database-plugin \
    allowed_roles="$name" username="${POSTGRES_USER:-vault}" password=- \
    connection_url="postgresql://{{username}}:{{password}}@$POSTGRES/$database?sslmode=${POSTGRES_TLS:-verify-full}"
  "$VAULT" write "database/roles/$name" db_name="$database" default_ttl=1h max_ttl=24h \
    creation_statements="CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE $role"
  {
    echo "path \"database/creds/$name\" { capabilities = [\"read\"] }"
    echo 'path "auth/token/create-orphan" { capabilities = ["update"] }   # a token for each lease'
    if [ "$name" = payment-service ]; then
      echo 'path "secret/data/shop/payment-provider" { capabilities = ["read"] }'
      echo 'path "sys/internal/ui/mounts/*" { capabilities = ["read"] }'
    fi
  } | "$VAULT" policy write "$name" -
  # auth/kubernetes is set up as in docs/vault.md; the role is found by the name of the service account.
  "$VAULT" write "auth/kubernetes/role/$name" audience=vault token_policies="default,$name" token_ttl=1h \
    bound_service_account_names="$name" bound_service_account_namespaces=shop
}

service auth-service auth auth_service
service order-service orders order_service
service payment-service payments payment_service
service inventory-service inventory inventory_service
