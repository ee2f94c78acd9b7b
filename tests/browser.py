"""A page in headless Chromium, by its own protocol over a pair of pipes; no package is needed."""

import base64
import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

NAMES = ('chromium', 'chromium-browser', 'google-chrome')
SWITCHES = (
    *('--headless=new', '--no-sandbox', '--disable-gpu', '--hide-scrollbars', '--no-first-run'),
    *('--disable-background-networking', '--remote-debugging-pipe'),
)
KEYS = dict(ArrowLeft=37, ArrowRight=39, Escape=27, Tab=9, Enter=13)


class Browser:
    """Chromium with one page; a context manager.

    Args:
        folder: for its profile.

    Attributes:
        errors: what pages have reported since they were opened.
    """

    def __init__(self, folder):
        program = next(filter(None, map(shutil.which, NAMES)), None)
        if program is None:
            pytest.skip(f'no browser: none of {", ".join(NAMES)} is installed')
        self.program, self.folder = program, folder
        self.number, self.session, self.errors, self.rest = 0, None, [], b''

    def __enter__(self):
        theirs, self.writing = os.pipe()
        self.reading, theirs_too = os.pipe()
        words = [self.program, *SWITCHES, f'--user-data-dir={self.folder}', 'about:blank']
        command = f'exec {shlex.join(words)} 3<&{theirs} 4>&{theirs_too}'
        quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.process = subprocess.Popen(
            ['bash', '-c', command], pass_fds=(theirs, theirs_too), **quiet
        )
        os.close(theirs)
        os.close(theirs_too)
        target = self.call('Target.createTarget', url='about:blank')['targetId']
        attached = self.call('Target.attachToTarget', targetId=target, flatten=True)
        self.session = attached['sessionId']
        for domain in ('Page', 'Runtime', 'Log'):
            self.call(f'{domain}.enable')
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        os.close(self.writing)
        os.close(self.reading)

    def call(self, method, **params):
        """The result of a method of the protocol."""
        self.number += 1
        message = dict(id=self.number, method=method, params=params)
        message |= dict(sessionId=self.session) if self.session else {}
        os.write(self.writing, json.dumps(message).encode() + b'\0')
        while (answer := self.receive()).get('id') != self.number:
            self.note(answer)
        assert 'error' not in answer, answer
        return answer['result']

    def receive(self):
        """The next message."""
        while b'\0' not in self.rest:
            part = os.read(self.reading, 1 << 20)
            assert part, 'the browser has ended'
            self.rest += part
        message, _, self.rest = self.rest.partition(b'\0')
        return json.loads(message)

    def note(self, event):
        if event.get('method') in ('Runtime.exceptionThrown', 'Log.entryAdded'):
            self.errors.append(event['params'])

    def open(self, path, width, *, dark=False):
        """Open a file in a window of a width, and wait until all of it is loaded."""
        self.call(
            'Emulation.setDeviceMetricsOverride',
            **dict(width=width, height=900, deviceScaleFactor=1, mobile=width < 600),
        )
        scheme = dict(name='prefers-color-scheme', value='dark' if dark else 'light')
        self.call('Emulation.setEmulatedMedia', features=[scheme])
        self.call('Page.navigate', url=Path(path).as_uri())
        self.run(
            "new Promise((done) => document.readyState === 'complete' ? done() "
            ": addEventListener('load', () => done()))"
        )

    def run(self, script):
        """The value of an expression, or what it promises."""
        options = dict(awaitPromise=True, returnByValue=True)
        found = self.call('Runtime.evaluate', expression=script, **options)
        assert 'exceptionDetails' not in found, found
        return found['result'].get('value')

    def press(self, key):
        for kind in ('keyDown', 'keyUp'):
            options = dict(type=kind, key=key, code=key, windowsVirtualKeyCode=KEYS[key])
            options |= dict(text='\r') if (key, kind) == ('Enter', 'keyDown') else {}
            self.call('Input.dispatchKeyEvent', **options)

    def picture(self, path):
        """Save what is seen, as PNG."""
        Path(path).write_bytes(base64.b64decode(self.call('Page.captureScreenshot')['data']))
