"""Active health checks: health_check, health_check_timeout, match."""
