"""The test kit: what the tests share, and nothing that the program uses.

- ``tools``      find a system program or skip with the reason (fail where it must be there)
- ``waiting``    ``wait_until``: poll for readiness instead of sleeping
- ``ports``      numbers of free ports that no parallel test run was given
- ``processes``  the process table: children, titles, descriptors, group kill
- ``proxies``    ``Nginx`` and ``Ngxstream``: one interface to run either program
- ``backends``   in-process TCP and UDP servers that script and record what they see
- ``clients``    sockets of a client with a deadline on every step
- ``netns``      network namespaces joined by veth pairs, always cleaned up
- ``udp_crowd``  UDP clients, backends and floods that number every datagram, as processes
- ``udp_network``  a namespace with a proxy between such players
- ``accounting`` what became of every datagram, from the players' journals
- ``dns``        dnsmasq as a backend, and dig as a client
- ``real_servers``  redis, postgres, mosquitto and others in a folder, each on a free port

Fixtures made of these (``proxy``, ``both``, ``backends``, ``namespaces``) are in tests/conftest.py.
"""
