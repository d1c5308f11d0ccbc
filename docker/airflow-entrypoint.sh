#!/bin/sh
# What Airflow's official image takes, its Helm chart relies on: a command of these is run as it stands, all else is one of Airflow's.
case "${1:-}" in
    airflow | bash | sh | python) exec "$@" ;;
    *) exec airflow "$@" ;;
esac
