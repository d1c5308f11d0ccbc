#!/bin/sh
# Brings the database up to date, makes the first user and the pool of GPUs; running it again changes no password.
set -eu
for secret in /run/secrets/*; do
    if [ ! -s "$secret" ]; then
        echo "error: $secret is empty or missing; fix: remove its file in docker/secrets, then make compose-up" >&2
        exit 2
    fi
done
airflow db migrate
if ! airflow users list --output plain | grep -Eq '^ *[0-9]+ +admin '; then
    password=$(cat /run/secrets/airflow_admin_password)
    # Asked for twice; on the command line every process of the machine could read it.
    printf '%s\n%s\n' "$password" "$password" |
        airflow users create --username admin --firstname maskline --lastname admin --role Admin --email admin@localhost
fi
airflow pools set gpu "${MASKLINE_GPUS}" "trainings and evaluations that may run at a time"
