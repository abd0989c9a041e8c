// What tests/bench/functions.py has, for nginx with njs: functions that do nothing.

function access(s) {
    s.decline();  // one that says nothing ends the session with status 500
}

function value(s) {
    return 'v';
}

function Single(s) {
    s.on('upstream', function (data, flags) { s.send(data, flags); });
    s.on('downstream', function (data, flags) { s.send(data, flags); });
}

export default {access, value, Single, Batch: Single};
