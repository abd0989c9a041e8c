"""Live sessions, shown and ended through the API; NGINX Plus has nothing like it."""
