# Goes on where agent.py ends.

import threading

done = []


def one(job):
    client, response = lease(job)
    assert "granted" in response, response
    if job % 2:
        client.sendall(frame({"release": {"step": step(job)}}))
        assert receive(client) == {"released": {"problems": []}}
    else:
        client.shutdown(socket.SHUT_WR)
    # The agent closes it when it is done with it.
    assert client.recv(1) == b""
    client.close()
    done.append(job)


def go(count, first, at_once=8):
    """Takes and gives back leases, for jobs of these numbers."""

    def work(place):
        for job in range(first + place, first + count, at_once):
            one(job)

    done.clear()
    threads = [threading.Thread(target=work, args=[place]) for place in range(at_once)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == count, f"{len(done)} of {count}"


def look():
    return metric("parallax_agent_resident_bytes"), metric("parallax_agent_open_files")


