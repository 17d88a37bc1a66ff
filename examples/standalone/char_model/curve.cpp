// SPDX-License-Identifier: Apache-2.0
#include "curve.hpp"

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>

namespace char_model {
namespace {

struct Point {
  double x;
  double y;
};

/// The mean loss of each of at most `count` pieces of the run, at the piece's middle.
std::vector<Point> averaged(std::vector<double> const& losses, std::size_t count) {
  std::vector<Point> points;
  std::size_t const pieces = std::min(count, losses.size());
  for (std::size_t i = 0; i < pieces; ++i) {
    std::size_t const begin = i * losses.size() / pieces;
    std::size_t const end = (i + 1) * losses.size() / pieces;
    double sum = 0;
    for (std::size_t j = begin; j < end; ++j) sum += losses[j];
    points.push_back(
        {static_cast<double>(begin + end) / 2, sum / static_cast<double>(end - begin)});
  }
  return points;
}

std::vector<Point> validation_points(History const& history) {
  std::vector<Point> points;
  for (Validation const& v : history.validations) {
    points.push_back({static_cast<double>(v.iteration), v.loss});
  }
  return points;
}

/// Maps iterations and losses to a picture of `width` by `height` whose y goes downwards.
struct Frame {
  double iterations;
  double lowest;
  double highest;
  double width;
  double height;

  Frame(std::vector<Point> const& training, std::vector<Point> const& validation, double unigram,
        double iteration_count, double w, double h)
      : iterations{std::max(1.0, iteration_count)},
        lowest{unigram},
        highest{unigram},
        width{w},
        height{h} {
    for (std::vector<Point> const* points : {&training, &validation}) {
      for (Point const& p : *points) {
        lowest = std::min(lowest, p.y);
        highest = std::max(highest, p.y);
      }
    }
    double const margin = std::max(0.05 * (highest - lowest), 0.01);
    lowest = std::max(0.0, lowest - margin);
    highest += margin;
  }

  double x(double iteration) const { return width * iteration / iterations; }
  double y(double loss) const { return height * (highest - loss) / (highest - lowest); }
};

// ---- Terminal -----------------------------------------------------------------------------------

constexpr std::size_t kColumns = 64;
constexpr std::size_t kRows = 14;

class Canvas {
 public:
  explicit Canvas(Frame const& frame) : frame_{frame}, rows_(kRows, std::string(kColumns, ' ')) {}

  void line(double loss, char mark) {
    for (std::size_t column = 0; column < kColumns; column += 2) cell(column, loss) = mark;
  }
  void put(Point const& point, char mark) {
    auto const column = static_cast<std::size_t>(std::max(0.0, frame_.x(point.x)));
    cell(std::min(column, kColumns - 1), point.y) = mark;
  }
  std::string const& row(std::size_t i) const { return rows_[i]; }

 private:
  char& cell(std::size_t column, double loss) {
    auto const row = static_cast<std::size_t>(std::max(0.0, frame_.y(loss)));
    return rows_[std::min(row, kRows - 1)][column];
  }

  Frame frame_;
  std::vector<std::string> rows_;
};

// ---- Images -------------------------------------------------------------------------------------

constexpr double kWidth = 640;
constexpr double kHeight = 360;
constexpr double kMargin = 60;
constexpr std::size_t kPoints = 400;

std::string polyline(Frame const& frame, std::vector<Point> const& points, char const* color) {
  std::ostringstream out;
  out << "<polyline fill=\"none\" stroke=\"" << color << "\" stroke-width=\"1.5\" points=\"";
  for (Point const& p : points) out << frame.x(p.x) << ',' << frame.y(p.y) << ' ';
  out << "\"/>\n";
  return out.str();
}

std::string svg_text(double x, double y, std::string const& attributes, std::string const& text) {
  std::ostringstream out;
  out << "<text x=\"" << x << "\" y=\"" << y << "\" " << attributes << '>' << text << "</text>\n";
  return out.str();
}

std::string rounded(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2f", value);
  return text;
}

std::string svg(History const& history, double unigram) {
  std::vector<Point> const training = averaged(history.losses, kPoints);
  std::vector<Point> const validation = validation_points(history);
  Frame const frame{training, validation, unigram, static_cast<double>(history.losses.size()),
                    kWidth,   kHeight};
  std::ostringstream out;
  out << "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" << kWidth + 2 * kMargin
      << "\" height=\"" << kHeight + 2 * kMargin
      << "\" font-family=\"sans-serif\" font-size=\"12\">\n"
      << "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
      << "<g transform=\"translate(" << kMargin << ',' << kMargin << ")\">\n"
      << "<rect width=\"" << kWidth << "\" height=\"" << kHeight
      << "\" fill=\"none\" stroke=\"black\"/>\n";
  for (int i = 0; i <= 4; ++i) {
    double const loss = frame.lowest + i * (frame.highest - frame.lowest) / 4;
    double const iteration = i * frame.iterations / 4;
    out << svg_text(-6, frame.y(loss) + 4, "text-anchor=\"end\"", rounded(loss))
        << svg_text(frame.x(iteration), kHeight + 18, "text-anchor=\"middle\"",
                    std::to_string(static_cast<std::int64_t>(iteration)));
  }
  out << "<line stroke=\"gray\" stroke-dasharray=\"6 4\" x1=\"0\" x2=\"" << kWidth << "\" y1=\""
      << frame.y(unigram) << "\" y2=\"" << frame.y(unigram) << "\"/>\n"
      << svg_text(kWidth - 6, frame.y(unigram) - 6, "text-anchor=\"end\" fill=\"gray\"",
                  "unigram entropy " + rounded(unigram))
      << polyline(frame, training, "#1f77b4");
  for (Point const& p : validation) {
    out << "<circle r=\"4\" fill=\"#d62728\" cx=\"" << frame.x(p.x) << "\" cy=\"" << frame.y(p.y)
        << "\"/>\n";
  }
  out << svg_text(kWidth / 2, kHeight + 40, "text-anchor=\"middle\"", "iteration")
      << svg_text(0, -12, "", "loss, nats a character (line: training, dots: held out)")
      << "</g>\n</svg>\n";
  return out.str();
}

/// Reads the curve as JSON from its standard input. Leaves with 3 where matplotlib is missing.
constexpr char const* kMatplotlibScript = R"py(
import json, sys
try:
    import matplotlib
except ImportError:
    sys.exit(3)
matplotlib.use("Agg")
import matplotlib.pyplot as plt
curve = json.load(sys.stdin)
plt.figure(figsize=(8, 5))
plt.plot([p[0] for p in curve["training"]], [p[1] for p in curve["training"]], label="training")
plt.plot([p[0] for p in curve["validation"]], [p[1] for p in curve["validation"]], "o", label="held out")
plt.axhline(curve["unigram"], color="gray", linestyle="--", label="unigram entropy")
plt.xlabel("iteration")
plt.ylabel("loss, nats a character")
plt.legend()
plt.savefig(curve["path"], format="png", dpi=120)
)py";

nlohmann::json to_json(std::vector<Point> const& points) {
  nlohmann::json list = nlohmann::json::array();
  for (Point const& p : points) list.push_back({p.x, p.y});
  return list;
}

void plot_by_matplotlib(std::string const& path, History const& history, double unigram) {
  nlohmann::json const curve{{"path", path},
                             {"unigram", unigram},
                             {"training", to_json(averaged(history.losses, kPoints))},
                             {"validation", to_json(validation_points(history))}};
  std::string const command = std::string{"python3 -c '"} + kMatplotlibScript + "'";
  std::FILE* const python = popen(command.c_str(), "w");
  if (python == nullptr) throw std::runtime_error{"cannot start python3 to draw " + path};
  std::string const text = curve.dump();
  // A python3 that has left already reads nothing: its exit code says so, not a signal.
  auto* const before = std::signal(SIGPIPE, SIG_IGN);
  std::fwrite(text.data(), 1, text.size(), python);
  int const status = pclose(python);
  std::signal(SIGPIPE, before);
  if (status != 0) {
    throw std::runtime_error{"python3 with matplotlib, which draws " + path +
                             ", is missing or failed; name the plot .svg to need neither"};
  }
}

}  // namespace

std::string terminal_curve(History const& history, double unigram) {
  std::vector<Point> const training = averaged(history.losses, kColumns);
  std::vector<Point> const validation = validation_points(history);
  Frame const frame{training,
                    validation,
                    unigram,
                    static_cast<double>(history.losses.size()),
                    static_cast<double>(kColumns),
                    static_cast<double>(kRows)};
  Canvas canvas{frame};
  canvas.line(unigram, '-');
  for (Point const& p : training) canvas.put(p, '*');
  for (Point const& p : validation) canvas.put(p, 'o');

  std::ostringstream out;
  out << "nats a character: * training, o held out, - unigram entropy\n";
  for (std::size_t i = 0; i < kRows; ++i) {
    double const middle = (static_cast<double>(i) + 0.5) / static_cast<double>(kRows);
    char label[32];
    std::snprintf(label, sizeof label, "%6.2f |",
                  frame.highest - middle * (frame.highest - frame.lowest));
    out << label << canvas.row(i) << '\n';
  }
  std::string const end = std::to_string(history.losses.size());
  out << "       +" << std::string(kColumns, '-') << '\n'
      << "        0" << std::string(kColumns - 1 - std::min(end.size(), kColumns - 1), ' ') << end
      << "\n";
  return out.str();
}

void plot_curve(std::string const& path, History const& history, double unigram) {
  if (std::filesystem::path{path}.extension() == ".png") {
    plot_by_matplotlib(path, history, unigram);
    return;
  }
  std::ofstream out{path};
  out << svg(history, unigram);
  out.close();
  if (!out) throw std::runtime_error{"cannot write " + path};
}

}  // namespace char_model
