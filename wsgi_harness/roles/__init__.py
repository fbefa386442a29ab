"""Tests the Ansible roles of ``hbshim/ansible/`` on hosts that are containers."""
