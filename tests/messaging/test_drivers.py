"""A URL's scheme names the client library; nothing is connected before it is used."""

import pytest

from hbshim.errors import OptionError
from hbshim.messaging import connect


@pytest.mark.parametrize("scheme", ["hbkombu", "hbpika"])
def test_a_driver_is_made_for_several_hosts_of_ipv6(scheme):
    driver = connect(f"{scheme}://one,[::1]:5673/vhost?pool_max_size=3", pool_stale=9)
    assert (driver.options.pool_max_size, driver.options.pool_stale) == (3, 9)
    driver.close()


@pytest.mark.parametrize("url", ["amqp://u:s3cret@host/", "rabbit://u:s3cret@[host/", "host", ""])
def test_a_url_of_no_driver_is_refused_and_not_repeated(url):
    with pytest.raises(OptionError, match="begin it with hbkombu:// or hbpika://") as caught:
        connect(url)
    assert "s3cret" not in str(caught.value)
