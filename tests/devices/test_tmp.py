from edgetx import devices
def test_x(device, classifier):
    lines=[]
    r = devices.bench("orin", classifier, runs=5, rounds=1, warmup=1, progress=lambda s: (lines.append(s), print(s)))
    print(r.engines[0].path, r.engines[0].latency)
    lines=[]
    r = devices.bench("orin", classifier, runs=5, rounds=1, warmup=1, progress=lambda s: (lines.append(s), print(s)))
    print(devices.examine("orin"))
    print(devices.remove("orin"))
